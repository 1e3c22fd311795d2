"""The command as a user types it: results on stdout, one-line errors and exit code 2 on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vitucb.cli.arguments import parse_run
from vitucb.cli.main import COMMANDS, main
from vitucb.config import load_config
from vitucb.registry import import_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a refused command."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_overview_says_of_a_command_what_its_function_says(name: str) -> None:
    path, summary = COMMANDS[name]
    assert import_path(path).__doc__.splitlines()[0] == summary


def test_run_prints_the_folder_and_reports_the_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", "--agent.name", "random", "--num-rounds", "5", "--out", str(tmp_path)])
    said = capsys.readouterr()
    folder = Path(said.out.strip())
    assert (folder / "summary.json").is_file()
    lines = said.err.splitlines()
    assert any(line.startswith("| random | 1     |") for line in lines)
    assert lines[-1] == f"next: vitucb report {tmp_path}/default"


def test_finished_run_is_not_played_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--agent.name", "random", "--num-rounds", "5", "--out", str(tmp_path)]
    main(command)
    folder = Path(capsys.readouterr().out.strip())
    before = (folder / "summary.json").stat().st_mtime_ns
    main(command)
    assert "is finished; --overwrite plays it again" in capsys.readouterr().err
    assert (folder / "summary.json").stat().st_mtime_ns == before


def test_options_override_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("agent: ucb1\nnum_rounds: 7\nseed: 4\n")
    main(["run", "--config", str(file), "--seed", "5", "--out", str(tmp_path)])
    config = load_config(Path(capsys.readouterr().out.strip()) / "config.yaml")
    assert (config.agent.name, config.num_rounds, config.seed) == ("ucb1", 7, 5)


def test_settings_that_the_agent_ignores_are_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-rounds", "3", "--out", str(tmp_path), "--no-tensorboard", "--agent.name"]
    main(["run", *words, "random", "--agent.covariance.name", "low-rank"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "no use" in line]
    assert lines == [
        "vitucb run: agent random makes no use of agent.covariance.name; it plays the same without"
    ]
    main(["run", *words, "ucb1"])
    assert "no use" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {"ratio": 4, "inner_options": {"a": 1}}),
        (["", "ratio", "8", "eps", "1e-3", "t", "True", "name", "a,b"], {"ratio": 8, "eps": 1e-3}),
        (["", "betas", "0.9,-1"], {"betas": [0.9, -1]}),
        (["", "betas", "[0.9, 0.99]"], {"betas": [0.9, 0.99]}),
        (["", "inner_options", "{b: 2}"], {"inner_options": {"b": 2}}),
        ([".inner_options.b", "2"], {"inner_options": {"a": 1, "b": 2}}),
        ([".weight-decay=0.1"], {"weight_decay": 0.1}),
    ],
)
def test_free_options_are_added_to_those_of_the_file(
    words: list[str], options: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "exp.yaml"
    file.write_text("agent: {optimizer: {options: {ratio: 4, inner_options: {a: 1}}}}")
    if words:
        words[0] = f"--agent.optimizer.options{words[0]}"
    given = parse_run(["--config", str(file), *words], "run").agent.optimizer.options
    assert given.items() >= options.items()
    assert {"ratio", "inner_options"} <= given.keys()


OPTIMIZER = ("--agent.name", "vit-ucb", "--agent.experts", "adapted", "--agent.optimizer.name")
WIDE = ("--agent.lora.rank", "200", "--agent.covariance.name", "low-rank")
OPTION = ("--agent.optimizer.options",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent.nme", "x"], "--agent.nme, x; did you mean --agent.name?"),
        (["--seed", "one"], "--seed"),
        (["--agent.name", "vit-ucbb"], "unknown agent.name 'vit-ucbb'; did you mean 'vit-ucb'?"),
        (["--agent.optimizer.name", "lora-plsu"], "did you mean 'lora-plus'?"),
        (["--agent.policy.name", "usb"], "unknown agent.policy.name 'usb'; did you mean 'ucb'?"),
        (["--agent.covariance.name", "exakt"], "did you mean 'exact'?"),
        (["--agent.name", ":build"], "':build' is no import path; write package.module:attribute"),
        (["--agent.name", "..a:build"], "'..a:build' is no import path; write package.module"),
        (["--agent.name", "sys:"], "'sys:' is no import path; write package.module:attribute"),
        (["--agent.name", "nowhere.x:build"], "No module named 'nowhere'; check the module name"),
        (["--env.id", "vitucb/ImageArm-v0"], "did you mean 'vitucb/ImageArms-v0'?"),
        (["--env.id", "CartPole-v1"], "must be a Dict space with images and action_mask"),
        (["--env.id", "nowhere:my/Env-v0"], "env.id 'nowhere:my/Env-v0' cannot be imported"),
        (["--env.dataset", "digit"], "did you mean 'digits'?"),
        (["--env.data.classes", "3"], "env.data.classes ['3']: of which images is not said; set"),
        (["--seed"], "Missing value for argument '--seed'. Expected 1 values; see vitucb run"),
        (["--env.num-arms", "11"], "11"),
        (["--env.options", "colour", "3"], "colour"),
        (["--num-rounds", "0"], "num_rounds 0 must be at least 1"),
        (["--seed", "-1"], "seed -1"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--agent.name", "vit-ucb", "--agent.optimizer.options", "lr", "1"], "optimizer.lr or"),
        (
            [*OPTIMIZER, "lora-plus", *OPTION, "ratio", "abc"],
            "option ratio: expected float, got 'abc'",
        ),
        ([*OPTIMIZER, "lora-plus", *OPTION, "ratio", "-1"], "-1 must be a positive number"),
        (
            [*OPTIMIZER, "lora-rite", *OPTION, "betas", "0.9"],
            "betas: expected list, got 0.9; write a list: [0.9]",
        ),
        ([*OPTION, "betas"], "'betas' has no value; write name value"),
        ([*OPTION, "betas", "[0.9"], "'[0.9' is no list or mapping such as [1, 2]"),
        ([*OPTION, "betas", "[[1]]"], "options.betas[0]: expected int or float"),
        (["--agent.optimizer.options.betas"], "--agent.optimizer.options.betas needs a value"),
        (["--agent.options.hidden", "--seed", "3"], "--agent.options.hidden needs a value"),
        ([*OPTIMIZER, "rac-lora", *WIDE], "lora.rank 200 is above"),
        ([*OPTIMIZER, "bernoulli-lora", *OPTION, "estimator", "page"], "choose estimator sgd"),
        (["--config"], "--config needs a file name"),
        (["--seed", "1e3"], "vitucb run: --seed: expected a whole number, got '1e3'; see vitucb"),
        (["--agent.policy.alpha", "0,3"], "--agent.policy.alpha: expected a number, got '0,3'"),
        (["--agent.lora.rank", "nan"], "--agent.lora.rank: expected None or a whole number, got "),
        (["--agent.lora.blocks", "x"], "expected None or whole numbers or last-half, got 'x'"),
        (["--tensorboard", "false"], "write --tensorboard or --no-tensorboard"),
        (["--env.data.skip_bad=True"], "write --env.data.skip-bad or --env.data.no-skip-bad"),
        (["--overwrite", "--seed", "true"], "--seed: expected a whole number, got 'true'"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml: No such file"),
        (["--config", ""], "--config .: it is no regular file; check the path"),
        (["--config="], "--config .: it is no regular file; check the path"),
    ],
)
def test_mistake_is_one_line_with_the_remedy(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    defaults = [] if "--agent.name" in arguments else ["--agent.name", "random"]
    line = refused(["run", "--out", str(tmp_path), *defaults, *arguments], capsys)
    assert message in line
    assert not any(tmp_path.iterdir())


EARLY = (
    ["--agent.policy.alpha", "-1"],
    ["--agent.lora.rank", "0"],
    ["--agent.optimizer.lr", "inf"],
    ["--num-rounds", "0"],
    ["--seed", "-1"],
    ["--agent.img-size", "33"],
    ["--agent.experts", "foo"],
    ["--agent.weights", "nowhere.safetensors"],
    ["--env.dataset", "digits", "--env.data.classes", "3", "x"],
    ["--env.options", "colour", "3"],
    ["--env.delay.law", "fixed", "--env.delay.rounds", "-1"],
    ["--out", "FILE/x"],
)


def test_what_can_be_refused_early_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "FILE").write_text("")
    code = (
        "import sys\n"
        "from vitucb.cli.main import main\n"
        f"for words in {EARLY!r}:\n"
        "    try:\n"
        "        main(['run', *words])\n"
        "    except SystemExit as stop:\n"
        "        print(stop.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.splitlines() == ["2 False"] * len(EARLY), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]
    lines = done.stderr.splitlines()
    assert len(lines) == len(EARLY)
    assert lines[0] == "vitucb run: agent.policy.alpha -1.0 must be at least 0"


def test_sweep_and_demo_look_first_where_they_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    place = str(tmp_path / "FILE" / "x")
    words = ["--agent.name", "random", "--num-rounds", "3"]
    assert "--out" in refused(["sweep", *words, "--out", place], capsys)
    assert "--report" in refused(["demo", "--report", place, "--out", str(tmp_path)], capsys)
    assert "--out" in refused(["report", str(tmp_path), "--out", place], capsys)
    grid = ["--grid", "env.num_arms=5,11", "--env.dataset", "digits"]
    assert "11" in refused(["sweep", *words, *grid, "--out", str(tmp_path / "runs")], capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from os import nothing_here", "cannot import name 'nothing_here'"),
        ("def build(:", "invalid syntax"),
        ("import no_such_thing", "'no_such_thing'; broken_agent needs it; install it"),
        ("build = 3", "agent 'broken_agent:build' is 3; name a class or a function"),
        ("def build(*_): return 3", "made a int without select_action, update, state_dict, load"),
    ],
)
def test_broken_agent_module_is_one_line(
    text: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "broken_agent.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_agent", raising=False)
    words = ["run", "--agent.name", "broken_agent:build", "--out", str(tmp_path / "runs")]
    assert message in refused(words, capsys)


def test_truncated_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{i}.png")
    broken = tmp_path / "set" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    options = ["--env.dataset", str(tmp_path / "set"), "--env.num-arms", "2", "--num-rounds", "50"]
    line = refused(
        ["run", "--agent.name", "random", "--out", str(tmp_path / "runs"), *options], capsys
    )
    assert "1.png" in line


@pytest.mark.parametrize(
    "kind", ["envs", "agents", "experts", "policies", "backbones", "datasets", "engines"]
)
def test_list_shows_names(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", kind])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{kind}:"
    assert len(lines) > 1
    assert all(len(line.split()) > 1 for line in lines[1:])


def test_unknown_kind_and_command_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'agents'?" in refused(["list", "agent"], capsys)
    assert "did you mean 'agents'?" in refused(["list", "envs", "agent"], capsys)
    assert "did you mean 'report'?" in refused(["reprot"], capsys)


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitucb", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout


def test_a_section_is_given_as_its_name_alone_as_in_a_file() -> None:
    words = ["--agent", "lin-ucb", "--agent.policy=greedy", "--agent.optimizer", "lora-rite"]
    agent = parse_run([*words, "--agent.covariance", "dense"], "run").agent
    named = (agent.name, agent.policy.name, agent.optimizer.name, agent.covariance.name)
    assert named == ("lin-ucb", "greedy", "lora-rite", "dense")


def test_an_error_of_a_module_of_the_users_own_says_where_it_was_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def build(config, env, seed, device):\n    return 1 + None\n"
    (tmp_path / "adding_none.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    played = ["--num-rounds", "2", "--out", str(tmp_path)]
    line = refused(["run", "--agent.name", "adding_none:build", *played], capsys)
    assert line.endswith("'NoneType' (raised in line 2 of adding_none)")


def test_a_folder_whose_name_is_no_utf8_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(["run", "--agent", "random", "--out", os.fsdecode(b"caf\xe9")], capsys)
    assert "out 'caf\\udce9' is no text in UTF-8" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["run", "--seed", "1"], "the same command goes on from the last checkpoint"),
        (["demo", "--overwrite"], "the same command, without overwrite, goes on from the last"),
        (["run", "--config", "anew.yaml"], "the same command, without overwrite, goes on from"),
        (["sweep", "--config=on.yaml"], "the same command goes on from the last checkpoint"),
        (["run", "--config", "torn.yaml"], "the same command goes on from the last checkpoint"),
        (["bench"], "the same command begins again"),
        (["evaluate", "log.csv"], "the same command begins again"),
    ],
)
def test_what_ctrl_c_promises_is_what_the_command_does(
    words: list[str],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(words: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    Path("anew.yaml").write_text("overwrite: true\n")
    Path("on.yaml").write_text("seed: 3\n")
    Path("torn.yaml").write_text("seed: [")
    monkeypatch.setattr(sys.modules["vitucb.cli.main"], "import_path", lambda path: interrupted)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith(f"vitucb {words[0]}: interrupted; {way}")


def test_a_full_disk_is_told_of_commands_that_begin_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(words: list[str]) -> None:
        raise OSError(28, "No space left on device", "report/index.html")

    monkeypatch.setattr(sys.modules["vitucb.cli.main"], "import_path", lambda path: full)
    for command, way in (("report", "begins again"), ("run", "goes on from what was kept")):
        with pytest.raises(SystemExit):
            main([command])
        assert capsys.readouterr().err.endswith(f"mend that, and the same command {way}\n")
