"""Random modules: real module code, written from a grammar by numbers drawn with a seed."""

from . import layers as layers
from . import numbers as numbers
from . import places as places
from .case import Case as Case
from .case import Impossible as Impossible
from .case import Step as Step
from .case import Written as Written
from .case import write as write
from .drawing import draw as draw
from .shrinking import shrink as shrink
