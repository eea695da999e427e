"""Whatever flag names a data set that is not there, the message names that flag and what else it takes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from consoles import command_module

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json

#: Command line with GONE in place of the data set; the flag; what the flag takes besides ids and names.
COMMAND_LINES = [
    ("phantom -d GONE", "-d", ""),
    ("train -d GONE", "-d", ""),
    ("masks -d GONE -o masks", "-d", ""),
    ("generate -d GONE", "-d", ""),
    ("generate -d 901 -o GONE", "-o", ""),
    ("generate -d 901 --for GONE", "--for", ""),
    ("generate -d 901 --references GONE", "--references", "text file"),
    ("generate -d 901 --references 901:a GONE", "--references", "text file"),
    ("generate -d 901 --templates GONE:a", "--templates", "text file"),
    ("generate --replay GONE", "--replay", "manifest"),
    ("prepare -d GONE --for 901", "-d", ""),
    ("prepare -d 901 --for GONE", "--for", ""),
    ("export medsam -d GONE -o out", "-d", ""),
    ("evaluate fidelity -d GONE -m model", "-d", "folder"),
    ("evaluate memorisation -d GONE --train 901", "-d", "folder"),
    ("evaluate memorisation -d 901 --train GONE", "--train", "folder"),
    ("evaluate memorisation -d 902 --train 901 --held_out GONE", "--held_out", "folder"),
    ("evaluate images -r GONE -s 901", "-r", "folder"),
    ("evaluate images -r 901 -s GONE", "-s", "folder"),
    ("evaluate confidence -d GONE", "-d", ""),
    ("report -d GONE", "-d", "folder"),
    ("report -d 901 --against GONE", "--against", "folder"),
    ("report reading prepare --methods a=901 b=GONE", "--methods", "folder"),
    ("merge -d GONE --masks .", "-d", ""),
    ("merge -d 901 -o GONE --masks .", "-o", ""),
    ("report reading prepare --methods a=901 --real GONE", "--real", "folder"),
    ("doctor -d GONE", "-d", "folder"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    for name in ("Dataset901_Heart", "Dataset902_Other"):
        mask = np.pad(np.ones((4, 4, 4), np.uint8), 2)
        write_case(tmp_path / "raw" / name, Case("a", 100.0 * mask[None], mask, np.eye(4)))
        write_dataset_json(tmp_path / "raw" / name, {"background": 0, "aorta": 1}, 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcas_nnunet.commands.doctor.check_environment", lambda: iter(()))  # takes its time


def said_by(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    command, *arguments = line.split()
    with pytest.raises(SystemExit) as caught:
        command_module(command).main(arguments)
    assert caught.value.code == (1 if command == "doctor" else 2)
    said = capsys.readouterr()
    return said.out + said.err


@pytest.mark.parametrize(("line", "flag", "also"), COMMAND_LINES)
def test_the_flag_is_named_and_what_it_takes(
    line: str, flag: str, also: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, got = (f"a {also}, ", f"no such {also}") if also else ("", "neither")
    kinds = f"{first}an id from 1 to 999 or a name like Dataset901_Heart"
    said = said_by(line.replace("GONE", "/no/where"), capsys)
    assert f"{flag} /no/where: it must be {kinds}, got {got}. Give" in said
    if flag != "-o" and not line.startswith("phantom"):  # these would write it
        said = said_by(line.replace("GONE", "905"), capsys)
        assert f"{flag} 905: it must be a folder in nnUNet_raw=" in said


@pytest.mark.parametrize(("line", "flag", "also"), [row for row in COMMAND_LINES if row[2] == "folder"])
def test_a_flag_that_takes_folders_says_so_in_its_help(
    line: str, flag: str, also: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = line.split()
    with pytest.raises(SystemExit, match="^0$"):
        command_module(words[0]).main([*(word for word in words[1:3] if word.isalpha()), "--help"])
    told = re.search(rf"\n  {flag} (.*?)\n( ? ?-|\n)", capsys.readouterr().out, re.DOTALL)
    assert told is not None
    assert "folder" in told[1] or "likewise" in told[1]
