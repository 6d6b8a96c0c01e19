"""The text format, as its library would write it."""

from l2g.serving.prototext import Word, prototext


def test_messages_lists_and_scalars():
    text = prototext(
        {
            "name": "a",
            "dims": [1, -1],
            "kind": Word("KIND_CPU"),
            "on": True,
            "share": 0.5,
            "left_out": None,
            "none": [],
            "empty": {},
            "inner": [{"x": 1}, {"deeper": {"y": False}}],
        }
    )
    assert text.splitlines() == [
        'name: "a"',
        "dims: 1",
        "dims: -1",
        "kind: KIND_CPU",
        "on: true",
        "share: 0.5",
        "empty {}",
        "inner {",
        "  x: 1",
        "}",
        "inner {",
        "  deeper {",
        "    y: false",
        "  }",
        "}",
    ]


def test_texts_are_escaped():
    assert prototext({"v": 'say "no"\\\n'}) == 'v: "say \\"no\\"\\\\\\n"\n'
