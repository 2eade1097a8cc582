"""What every planner's decision must keep."""

from lrp_compiler.passes.promises.planner import Decision, Value

INPUT = Value(0, given=True)


def executable(values: list[Value], asked: list[int], decision: Decision) -> bool:
    """Whether everything asked for is at hand or can be computed from what is."""
    at_hand = {index for index, value in enumerate(values) if value.given} | decision.kept
    for index in sorted(decision.rebuilt):
        if not at_hand.issuperset(values[index].sources):
            return False
        at_hand.add(index)
    return at_hand.issuperset(asked)
