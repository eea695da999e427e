"""Roles of labels: by their names, or as a user gives them."""

from __future__ import annotations

from fcas_nnunet.labels.anatomy import LabelRoles, Role, describe_roles, label_roles, thin_label_ids

LABELS = {"background": 0, "LCA": 1, "RCA": 2, "aorta": 3, "LV": 4, "LV_myo": 5, "vessel": 6, "PA": 7}


def test_roles_follow_from_names() -> None:
    assert label_roles(LABELS) == LabelRoles(
        thin=frozenset({1, 2}), wide=frozenset({3, 7}), roots=frozenset({3}), chambers=frozenset({4}),
        walls=frozenset({5}),
    )  # fmt: skip


def test_given_roles_go_before_the_name() -> None:
    given = {"vessel": (Role.THIN,), "aorta": (), "PA": (Role.WIDE, Role.ROOT)}
    roles = label_roles(LABELS, given)
    assert roles.thin == {1, 2, 6}
    assert (roles.wide, roles.roots) == ({7}, {7})
    assert thin_label_ids(LABELS, given) == [1, 2, 6]


def test_every_label_is_said() -> None:
    assert describe_roles(LABELS) == [
        "  thin    LCA, RCA",
        "  wide    aorta, PA",
        "  root    aorta",
        "  chamber LV",
        "  wall    LV_myo",
        "  no role vessel",
    ]
