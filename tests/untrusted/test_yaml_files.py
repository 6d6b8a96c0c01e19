"""YAML with limits: what people write is read as PyYAML reads it, what was made to expand is refused at once."""

import time

import pytest
import yaml

from l2g.errors import ConfigError
from l2g.untrusted.yaml_files import parse_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


def test_plain_files_are_read_as_ever():
    text = "model: l2g_tiny\nbase: &base {lr: 1e-3, steps: [1, 2]}\nphases:\n- *base\n- {<<: *base, lr: .5}\n"
    assert parse_yaml(text, "x") == yaml.safe_load(text)
    assert parse_yaml("", "x") is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (LAUGHS, "aliases stand for more than"),
        ("a: &a [*a]", "alias within itself"),
        ("[" * 60 + "]" * 60, "nested too deep"),
        ("[" * 20000, "nested too deep"),
        ("a: [", "not a YAML file"),
        ("? [1]\n: 2\n? {a: 1}\n: 2", "not a YAML file"),
        ("!!python/object/apply:os.system [x]", "not a YAML file"),
        ("2020-99-99", "not a YAML file"),
        ("a: 1\n---\nb: 2", "not a YAML file"),
        ("a" * (1 << 21), "letters found"),
    ],
)
def test_what_expands_or_is_no_yaml_is_one_short_error(text, match):
    started = time.process_time()
    with pytest.raises(ConfigError, match=match) as error:
        parse_yaml(text, "x.yaml")
    assert len(str(error.value)) < 600
    assert time.process_time() - started < 5
