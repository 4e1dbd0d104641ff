"""The check that nothing turns data into code finds what is planted, and finds nothing in this program."""

from pathlib import Path

import pytest

from tools.check_no_code_execution import CHECKED, ROOT, findings, findings_in, main

PLANTED = {
    "import pickle": "imports pickle",
    "import os, marshal": "imports marshal",
    "from joblib import load": "imports joblib",
    "def f():\n    import dill as d\n    return d": "imports dill",
    "import shelve.x": "imports shelve",
    "eval('1')": "eval runs text as code",
    "exec(text)": "exec runs text as code",
    "compile(text, '', 'exec')": "compile runs text as code",
    "__import__(name)": "__import__ runs text as code",
    "import builtins as b\nb.eval(x)": "builtins.eval runs text as code",
    "import importlib\nimportlib.import_module(name)": "by a name that is computed",
    "from importlib import import_module as im\nim('a.' + name)": "by a name that is computed",
    "import torch\ntorch.load(path, weights_only=True)": "torch.load pickles",
    "import torch as t\nt.save(x, path)": "torch.save pickles",
    "from torch import load": "imports torch.load, which pickles",
    "import torch.hub\ntorch.hub.load('x')": "torch.hub.load pickles",
    "import numpy as np\nnp.load(path)": "numpy.load without allow_pickle=False",
    "import numpy as np\nnp.load(path, allow_pickle=True)": "numpy.load without allow_pickle=False",
    "import numpy as np\nnp.load(path, allow_pickle=flag)": "numpy.load without allow_pickle=False",
    "from numpy import savez as s\ns(path, x=x)": "numpy.savez without allow_pickle=False",
    "read_it(path, allow_pickle=True)": "read_it with allow_pickle",
    "import yaml\nyaml.load(text, yaml.FullLoader)": "yaml.load makes any object",
    "import subprocess\nsubprocess.run(text, shell=True)": "subprocess.run with shell=",
    "import subprocess as s\ns.Popen(text, shell=flag)": "subprocess.Popen with shell=",
    "import os\nos.system(text)": "os.system runs text in a shell",
    "app.conf.update(accept_content=['json', 'pickle'])": "something else than JSON",
    "app.conf.task_serializer = 'pickle'": "something else than JSON",
    "conf = {'accept_content': ['yaml']}": "something else than JSON",
    "conf = dict(result_serializer=name)": "something else than JSON",
}
HARMLESS = (
    "import re\nre.compile('a')",
    "model.eval()",
    "import numpy as np\nnp.load(path, allow_pickle=False)",
    "import numpy as np\nnp.savez(path, allow_pickle=False, x=x)",
    "import yaml\nyaml.safe_load(text)",
    "import subprocess\nsubprocess.run(['ls', name], shell=False)",
    "import importlib\nimportlib.import_module('clr.config')",
    "app.conf.update(accept_content=['json'], task_serializer='json')",
    "from safetensors.torch import load_file, save_file\nload_file(path)",
    "import json\njson.load(file)",
    "# pickle.loads(data)\ntext = 'import pickle'",
)


@pytest.mark.parametrize("source", PLANTED)
def test_what_is_planted_is_found(source: str) -> None:
    found = findings(source, "planted.py")
    assert len(found) == 1, found
    assert PLANTED[source] in found[0].what
    assert str(found[0]).startswith(f"planted.py:{1 + source.count(chr(10)) if 'import dill' not in source else 2}: ")


@pytest.mark.parametrize("source", HARMLESS)
def test_what_is_harmless_is_let_through(source: str) -> None:
    assert findings(source, "harmless.py") == []


def test_every_part_of_the_program_is_read(tmp_path: Path) -> None:
    for part in CHECKED:
        (tmp_path / part / "deeper").mkdir(parents=True)
        (tmp_path / part / "deeper" / "module.py").write_text("x = 1\nimport pickle\n")
    assert [str(finding) for finding in findings_in(tmp_path)] == [
        f"{part}/deeper/module.py:2: imports pickle: use JSON, npy or safetensors" for part in CHECKED
    ]


def test_this_program_turns_no_data_into_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} >= set(CHECKED)
    assert main() == 0, capsys.readouterr().out
