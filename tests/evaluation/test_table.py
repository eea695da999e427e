"""The printed table."""

from fcas_nnunet.evaluation.table import format_table


def test_columns_line_up() -> None:
    assert format_table(["label", "Dice %"], [["aorta", "9.5"], ["left_ventricle", "88.25"]]).splitlines() == [
        "label           Dice %",
        "--------------  ------",
        "aorta              9.5",
        "left_ventricle   88.25",
    ]
