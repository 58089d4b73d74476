import re
from contextlib import chdir
from pathlib import Path

from robe_numba.training import train
from tests.training.runs import small_config

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "pytorch.md"


def test_the_blocks_of_the_guide_run_and_print_what_it_shows(dataset, tmp_path, capsys):
    """One after the other in one namespace, in a folder that has a run."""
    train(dataset, small_config(), tmp_path / "run")
    text = GUIDE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```\n(module.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    namespace = {"__name__": "guide"}
    capsys.readouterr()
    with chdir(tmp_path):
        for block in blocks:
            exec(compile(block, str(GUIDE), "exec"), namespace)
    assert capsys.readouterr().out == shown
    assert (tmp_path / "tuned" / "model.safetensors").is_file()
