"""What label names mean, in the words of the data sets that are out there."""

from __future__ import annotations

import pytest

from fcas_nnunet.labels.anatomy import Structure, structure_of
from fcas_nnunet.labels.names import name_key, term_of, whole_terms

MEANINGS = {
    "left_myocardium": """myocardium Myo MYO LVM lv_myocardium LV_myo LVmyo heart_myocardium MLV left_myocardium
        myocardium_of_the_left_ventricle left_ventricle_myocardium LeftVentricularMyocardium""",
    "left_atrium": "LA left_atrium left-atrium left_atrium_blood_cavity heart_atrium_left LeftAtrium",
    "left_ventricle": """LV left_ventricle left_ventricle_blood_cavity heart_ventricle_left lv_blood_pool LV_BP LVC
        left_ventricle_cavity LV_bloodpool""",
    "right_atrium": "RA right_atrium right_atrium_blood_cavity heart_atrium_right",
    "right_ventricle": "RV right_ventricle right_ventricle_blood_cavity heart_ventricle_right RVC",
    "ascending_aorta": "ascending_aorta AscendingAorta AA aorta_ascending",
    "aorta": "aorta Aorta AO Ao thoracic_aorta",
    "pulmonary_artery": "PA pulmonary_artery pulmonary_trunk main_pulmonary_artery Pulmonary MPA pulmonary_arteries",
    "coronary_arteries": "coronary_arteries coronary coronaries coronary_artery coronary_tree CA CoronaryVessels",
    "left_coronary_artery": "LCA left_coronary_artery left_coronary LeftCoronaryArtery coronary_artery_left",
    "right_coronary_artery": "RCA right_coronary_artery right_coronary rca",
    "left_main": "LM left_main LMCA left_main_coronary_artery",
    "left_anterior_descending": "LAD lad left_anterior_descending left_anterior_descending_coronary_artery",
    "left_circumflex": "LCX LCx circumflex left_circumflex_artery",
}  # fmt: skip


@pytest.mark.parametrize("name", MEANINGS)
def test_the_usual_names_are_known(name: str) -> None:
    for spelling in [*MEANINGS[name].split(), MEANINGS[name].split()[0].replace("_", " ") + " "]:
        term = term_of(spelling)
        assert term is not None, spelling
        assert term.name == name, spelling
        assert term.structure in list(Structure)


@pytest.mark.parametrize(
    "name",
    """vessel hepatic_vessel vein heart cavity blood_pool liver tumor descending_aorta aortic_arch aortic_valve
    coronary_sinus coronary_calcium left_coronary_plaque right_ventricle_myocardium left_atrial_appendage
    left_atrium_wall pulmonary_vein lung_vessels left right ventricle atrium spinal_canal portal_vein_and_splenic_vein
    whole_heart superior_vena_cava background""".split(),
)
def test_names_that_mean_something_else_are_not_taken_for_the_eight(name: str) -> None:
    assert structure_of(name) is None


def test_parts_belong_to_their_whole() -> None:
    lad = term_of("LAD")
    assert lad is not None
    assert [term.name for term in whole_terms(lad)] == [
        "left_anterior_descending", "left_coronary_artery", "coronary_arteries",
    ]  # fmt: skip
    assert structure_of("LAD") == structure_of("RCA") == Structure.CORONARY_ARTERIES


def test_case_and_separators_do_not_make_another_name() -> None:
    assert name_key("Left Ventricle") == name_key("left_ventricle") == name_key("left-ventricle")
    assert name_key("Größe 1") == name_key("grösse_1") != name_key("größe_2")
