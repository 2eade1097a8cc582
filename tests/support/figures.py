"""What a matplotlib figure says."""

from typing import Any


def texts(figure: Any) -> str:
    return "\n".join(
        [figure.get_suptitle()]
        + [axis.get_title() for axis in figure.axes]
        + [text.get_text() for axis in figure.axes for text in axis.texts]
    )
