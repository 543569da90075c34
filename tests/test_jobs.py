import json

from conftest import ROOT, bad_input

# D's gradients, G's gradients, and the moving averages with losses, mean scores and the request to stop: float32.
REDUCED = [4 * 395_405, 4 * 696_507, 4 * (720 + 672 + 5)]


def test_quick_measures_jobs_of_one_and_two_processes(run_command, tmp_path):
    result = run_command("reproduce/jobs.py", "--quick", "--workers", 2, "--json", "b.json", PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    one, two = json.loads((tmp_path / "b.json").read_text())["jobs"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["bytes_per_step"], two["bytes_per_step"]) == (0, sum(REDUCED))
    assert [*map(int, two["all_reduces_ms"])] == sorted(REDUCED) and two["all_reduces_per_step"] == len(REDUCED)
    assert two["in_all_reduce_ms"] > 0 and two["reduce_one_ms"]["min"] > 0
    assert f"{sum(REDUCED):,}" in result.stdout


def test_a_wrong_place_for_the_report_is_refused_before_anything_is_measured(run_command):
    result = run_command("reproduce/jobs.py", "--json", "no/folder.json", PYTHONPATH=str(ROOT))
    assert "no folder no" in bad_input(result)
