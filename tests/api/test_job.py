"""Jobs inside the API: a switch is believed only where the code begins nothing without it, and still listens."""

from pathlib import Path

import pytest

from opslib.api import job

TIMER = "setInterval(send, 300)"


def found(folder: Path, *texts: str) -> list[tuple[int, str, str]]:
    for number, text in enumerate(texts):
        (folder / f"file{number}.js").write_text(text)
    jobs = job.all_of(folder)
    return [(one.line.line, *((one.switch.variable, one.switch.off) if one.switch else ("", ""))) for one in jobs]


@pytest.mark.parametrize(
    ("code", "variable", "off"),
    [
        (f'function start() {{\n if (process.env.R === "false") {{\n  return;\n }}\n {TIMER};\n}}', "R", "false"),
        (f"function start() {{\n if (process.env.R !== 'true') return;\n\n\n {TIMER};\n}}", "R", "false"),
        (f'function start() {{\n if (x || process.env.NO_R === "true") return;\n\n\n {TIMER};\n}}', "NO_R", "true"),
        ('\n\n\nif (process.env.R?.toLowerCase() === "true") {\n cron.schedule("* * * * *", send);\n}', "R", "false"),
        (f'\n\n\n\nfunction start() {{ if (process.env.R === "false") return; {TIMER}; }}', "R", "false"),
        (f'\n\n\n\nfunction start() {{ if (process.env.R === "true") return {TIMER}; else return; }}', "R", "false"),
        (f'\n\n\nif (x && process.env.R !== "false")\n {TIMER};', "R", "false"),
        (f'\nif (process.env.R === "false") {{\n say("off");\n}} else {{\n {TIMER};\n}}', "R", "false"),
    ],
)
def test_what_turns_a_job_off_is_read_from_the_condition(tmp_path: Path, code: str, variable: str, off: str) -> None:
    assert found(tmp_path, code) == [(5, variable, off)]


@pytest.mark.parametrize(
    "code",
    [
        f'if (process.env.VERBOSE === "true") say("on");\n\n\n\n{TIMER};',
        f'function start() {{\n if (process.env.R === "false" && x) return;\n\n\n {TIMER};\n}}',
        f'function start() {{\n if (process.env.R === "true") {{\n  each(() => {{ return 1; }});\n }}\n {TIMER};\n}}',
        f'\n\n\nif (x || process.env.R === "true")\n {TIMER};',
        f'\n\nconst every = process.env.R === "false" ? 0 : 5;\n\n{TIMER};',
        f'\nif (process.env.R !== "false") {{\n\n app.listen(1);\n {TIMER};\n}}',
        "async function tick() {\n\n\n await send();\n setTimeout(tick, 300);\n}",
    ],
)
def test_what_does_not_turn_it_off_is_not_said_to(tmp_path: Path, code: str) -> None:
    assert found(tmp_path, code) == [(5, "", "")]


def test_a_bundle_may_hold_any_job(tmp_path: Path) -> None:
    code = f'function start() {{ if (process.env.R === "false") return; {TIMER}; }}'
    assert found(tmp_path, code) == [(1, "R", "false")]
    assert found(tmp_path, f"{code} {'x' * 5000}") == [(1, "", "")]


def test_what_only_tidies_up_is_no_job(tmp_path: Path) -> None:
    code = f"{TIMER}.unref();\nconst timer = {TIMER};\ntimer.unref();\n// {TIMER}\n/* {TIMER} */\nsetTimeout(done, 5);"
    assert found(tmp_path, code) == []


def test_a_switch_before_every_call_counts_and_before_one_of_two_does_not(tmp_path: Path) -> None:
    begins = f"function startJobs() {{\n  {TIMER};\n}}\nmodule.exports = {{ startJobs }};"
    calls = 'const { startJobs } = require("./file0");\nif (process.env.JOBS === "true") startJobs();\n'
    assert found(tmp_path, begins, calls) == [(2, "JOBS", "false")]
    assert found(tmp_path, begins, calls + "startJobs();") == [(2, "", "")]
