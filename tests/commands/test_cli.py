"""What all commands share: an option that would do nothing is named, whatever the command."""

from __future__ import annotations

import pytest
from consoles import command_module

from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.faults import InputError

_MASKS = ["-d", "901", "-o", "DIR"]
_IMAGES = ["images", "-r", "901", "-s", "902"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("generate", ["-d", "901", "--unmatched", "ignore"], "--unmatched: must go with --for, got it alone"),
        ("generate", ["-d", "901", "--masks", "given", "--stenosis", "0", "0.7"], "--stenosis: must go without --mas"),
        ("masks", [*_MASKS, "--masks", "given", "--wall_mm", "-1", "1"], "--wall_mm: must go without --masks given"),
        ("evaluate", [*_IMAGES, "--fid_size", "64"], "--fid_size: must go with --fid_weights"),
        ("evaluate", [*_IMAGES, "--chk", "x.pth", "--fold", "1"], "--fold: must go with --netw.*\n--chk: must go with"),
        (
            "evaluate", ["memorisation", "-d", "902", "--train", "901", "-f", "1"], "-f: must go with -m, got it alone",
        ),
        (
            "evaluate", ["segmentations", "-r", "a", "-p", "b", "--overlap_only", "--tolerance_mm", "2"],
            "--tolerance_mm: must go without --overlap_only",
        ),
        ("doctor", ["--force"], "--force: must go with --fix"),
        ("doctor", ["--fix", "-d", "901"], "-d: must go without --fix, beside which it does nothing"),
        ("doctor", ["--unfix", "-d", "901"], "-d: must go without --unfix"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(command: str, arguments: list[str], message: str) -> None:
    parser = command_module(command).build_parser()
    with pytest.raises(ValueError, match=message):
        parser.parse_args(arguments)


def test_an_option_beside_what_it_needs_or_with_its_default_is_taken() -> None:
    parser = make_parser("name", "does", "name -a 1")
    parser.add_argument("-a", default="0")
    parser.add_argument("-b", action="store_true")
    parser.idle("-b", without="-a")
    parser.idle("-a", beside="-b")
    assert parser.parse_args(["-a", "0"]).a == "0"
    assert parser.parse_args(["-a", "1"]).a == "1"
    with pytest.raises(ValueError, match="-b: must go with -a, got it alone. Add that, or leave it out."):
        parser.parse_args(["-b"])
    with pytest.raises(ValueError, match="-a: must go without -b, beside which it does nothing, got both. Leave one"):
        parser.parse_args(["-b", "-a", "1"])


def test_a_comparison_of_two_files_has_no_processes() -> None:
    parser = command_module("evaluate").build_parser()
    assert "np" not in parser.parse_args(["compare", "-a", "a.json", "-b", "b.json"])
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["compare", "-a", "a.json", "-b", "b.json", "-np", "2"])


def test_a_model_named_before_medsam_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_module("export").main(["-i", "m", "medsam", "-d", "901", "-o", "new"])
    assert "-i, -o: must not stand before medsam" in capsys.readouterr().err


def test_bad_input_ends_a_command_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: object) -> None:
        raise InputError("a: must be b, got c. Do d.")

    with pytest.raises(SystemExit, match="^2$"):
        main()
    assert capsys.readouterr().err == "error: a: must be b, got c. Do d.\n"


def test_an_unforeseen_error_keeps_its_traceback_under_a_request_to_report_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @command
    def main(argv: object) -> None:
        int("x")

    with pytest.raises(ValueError, match="invalid literal for int"):
        main()
    said = capsys.readouterr().err
    assert said.startswith("This is a fault of fcas-nnunet, not of what you gave it. Please report it")


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_a_launcher_s_variable_that_is_no_number_is_named(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(variable, "abc")
    with pytest.raises(SystemExit, match="^2$"):
        command_module("env").main([]) if variable == "RANK" else command_module("generate").main(["-d", "901"])
    assert f"error: {variable}: the environment variable must be a whole number" in capsys.readouterr().err
