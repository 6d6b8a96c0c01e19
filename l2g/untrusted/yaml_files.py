"""YAML that people write, read with limits: aliases and depth make a small file large."""

from __future__ import annotations

from typing import Any

import yaml

from l2g.errors import ConfigError, L2GError

# Far beyond what a person writes; a file that expands to more was made to.
MOST_VALUES, MOST_DEPTH, MOST_LETTERS = 20_000, 40, 1 << 20


def parse_yaml(text: str, name: str, error: type[L2GError] = ConfigError) -> Any:
    """The value of a YAML text that came from `name`, plain types only. `error` for anything else, for more than
    `MOST_VALUES` values once its aliases are written out, and for more than `MOST_DEPTH` levels."""
    if len(text) > MOST_LETTERS:
        raise error(f"{name}: {len(text)} letters found, at most {MOST_LETTERS} expected; write a shorter file")
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, 0, {}, name, error)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise error(f"{name}: nested too deep; at most {MOST_DEPTH} levels expected") from None
    # TypeError, ValueError: keys and dates that YAML allows and Python does not.
    except (yaml.YAMLError, TypeError, ValueError, OverflowError) as reason:
        raise error(f"{name}: not a YAML file: {reason}") from None


def _count(node: yaml.Node, depth: int, counted: dict[int, int], name: str, error: type[L2GError]) -> int:
    """Values in a node, written out: an alias is the node that it stands for once more."""
    if depth > MOST_DEPTH:
        raise error(f"{name}: nested too deep, or an alias within itself; at most {MOST_DEPTH} levels expected")
    if id(node) not in counted:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [side for pair in node.value for side in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        counted[id(node)] = 1 + sum(_count(child, depth + 1, counted, name, error) for child in children)
    if counted[id(node)] > MOST_VALUES:
        raise error(f"{name}: its aliases stand for more than {MOST_VALUES} values; write them out")
    return counted[id(node)]
