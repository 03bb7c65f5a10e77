"""Reading YAML: what is wrong in a file is said in one line that names it, and values are those that DVC reads."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar.config.params import read_yaml
from cifar.system.errors import InputError

WRONG_FILES = [
    ("", "holds nothing, expected keys with values"),
    ("# only a comment\n", "holds nothing, expected keys with values"),
    ("- epochs\n- 24\n", "holds a list, expected keys with values"),
    ("epochs 24\n", "holds a str, expected keys with values"),
    ("epochs: 24\nepochs: 30\n", 'is not valid YAML, line 2: found duplicate key "epochs"'),
    ("epochs: [24\n", "is not valid YAML, line 2: expected ',' or ']'"),
    ("epochs: 24: 30\n", "is not valid YAML, line 1: mapping values are not allowed here"),
    ("\tepochs: 24\n", r"is not valid YAML, line 1: found character '\t'"),
    ("epochs: *other\n", "is not valid YAML, line 1: found undefined alias 'other'"),
    ("seed: !!python/object/apply:os.getpid []\n", "is not valid YAML, line 1: could not determine a constructor"),
    ("[" * 3000, "is not valid YAML: RecursionError"),
    (b"epochs: \xff\n", "is not valid YAML: it is not UTF-8 text"),
    ("seed: !!bool maybe\n", "is not valid YAML: KeyError"),
    ("seed: !!timestamp soon\n", "is not valid YAML"),
    ("seed: !!int ten\n", "is not valid YAML: ValueError"),
    ("seed: !!float ten\n", "is not valid YAML: ValueError"),
    ("seed: !!binary é\n", "is not valid YAML"),
    ("? [1, {a: 2}]\n: 3\n", "is not valid YAML"),
    (f"{'k' * 999}: 1\n{'k' * 999}: 2\n", f'is not valid YAML, line 2: found duplicate key "{"k" * 50}'),
    ("augment: &a\n- name: HorizontalFlip\n  p: *a\n", "is not valid: an alias (*name) is part of what it stands for"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_FILES, ids=[message for _, message in WRONG_FILES])
def test_a_file_that_is_no_mapping_is_one_line_that_names_the_file(content, message, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path} {message}")


def bomb(levels: int) -> str:
    """Ten aliases of ten aliases of …: 10**levels words in some 50 characters a level."""
    lines = ["augment:", "- &a0 boom"]
    lines += [f"- &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize("levels", [5, 9, 100])
def test_aliases_that_stand_for_very_many_values_are_refused_at_once(levels, tmp_path):
    (tmp_path / "params.yaml").write_text(bomb(levels))
    began = time.process_time()
    with pytest.raises(InputError, match=r"its aliases \(\*name\) stand for more than 100,000 values"):
        read_yaml(tmp_path / "params.yaml")
    assert time.process_time() - began < 5


def test_an_alias_beside_what_it_names_is_its_copy(tmp_path):
    (tmp_path / "params.yaml").write_text("model: &size {height: 32}\naugment: [*size, *size]\n")
    assert read_yaml(tmp_path / "params.yaml")["augment"] == [{"height": 32}, {"height": 32}]


def test_1e_05_as_dvc_writes_it_is_a_number(tmp_path):
    # PyYAML, at YAML 1.1, takes it for a word.
    (tmp_path / "params.yaml").write_text("lr_max: 1e-05\nlr_min: 1E-5\n")
    assert read_yaml(tmp_path / "params.yaml") == {"lr_max": 0.00001, "lr_min": 0.00001}


def test_yes_and_no_stay_words(tmp_path):
    (tmp_path / "params.yaml").write_text("dataset: no\n")
    assert read_yaml(tmp_path / "params.yaml") == {"dataset": "no"}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%@?,~ \n\t0123e.", max_size=40).map(str.encode))
def test_any_bytes_are_a_mapping_or_explained(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read_yaml(path), dict)
    except InputError as error:
        assert str(path) in str(error)
