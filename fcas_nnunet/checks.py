"""What settings check of themselves."""

from __future__ import annotations


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Refuse a setting.

    Args:
        condition: that has to hold.
        name: of the setting.
        rule: what it must be, in words.
        value: what it is.

    Raises:
        ValueError: when the condition does not hold.
    """
    if not condition:
        raise ValueError(f"{name}: must be {rule}, got {value}.")
