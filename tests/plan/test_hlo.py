"""Reading the text of compiled programs, and the runs of their loops."""

from __future__ import annotations

import math

import pytest

from flan_jax.plan import hlo
from flan_jax.plan.loops import trip_count

LOOP = """HloModule loop, is_scheduled=true

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %state = (s32[]{{:T(128)}}, f32[8]{{0:T(256)S(1)}}, /*index=2*/s32[]) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  %c = s32[]{{:T(128)S(6)}} copy(%i)
  %by = s32[] constant({step})
  %next = s32[]{{:T(128)}} {operation}(%c, %by)
  %x = f32[8]{{0:T(256)S(1)}} get-tuple-element(%state), index=1
  %bound.1 = s32[] get-tuple-element(%state), index=2
  ROOT %r = (s32[]{{:T(128)}}, f32[8]{{0:T(256)S(1)}}, s32[]) tuple(%next, %x, %bound.1)
}}

%test (i: s32[], n: s32[]) -> pred[] {{
  %i.1 = s32[] parameter(0)
  %n.1 = s32[] parameter(1)
  ROOT %compared = pred[] compare(%i.1, %n.1), direction={direction}
}}

%condition (state.1: (s32[], f32[8], s32[])) -> pred[] {{
  %state.1 = (s32[]{{:T(128)}}, f32[8]{{0:T(256)S(1)}}, s32[]) parameter(0)
  %j = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  %limit = s32[] get-tuple-element(%state.1), index=2
  ROOT %goes = pred[]{{:T(512)}} fusion(%j, %limit), kind=kLoop, calls=%test
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x.1 = f32[8]{{0:T(256)}} parameter(0), metadata={{op_name="x, (an \\"input\\")"}}
  %start = s32[]{{:T(128)}} constant({start})
  %moved = s32[]{{:T(128)}} copy(%start)
  %end = s32[] constant({end})
  %in = (s32[]{{:T(128)}}, f32[8]{{0:T(256)}}, s32[]) tuple(%moved, %x.1, %end)
  %loop = (s32[], f32[8]{{0}}, s32[]) while(%in), condition=%condition, body=%body
  ROOT %out = f32[8]{{0:T(256)}} get-tuple-element(%loop), index=1
}}
"""


def loop(**changes: object) -> int | None:
    values = {"start": 0, "end": 6, "step": 1, "operation": "add", "direction": "LT", **changes}
    module = hlo.parse(LOOP.format(**values))
    return trip_count(module, module.entry.by_name["loop"], module.entry)


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({}, 6),
        ({"start": 2, "step": 3, "end": 9}, 3),
        ({"direction": "LE"}, 7),
        ({"direction": "NE"}, 6),
        ({"start": 5, "end": 0, "operation": "subtract", "direction": "GT"}, 5),
        ({"start": 9}, 0),
        ({"operation": "multiply"}, None),
        ({"step": 0}, None),
    ],
)
def test_runs_of_a_loop(changes: dict[str, object], runs: int | None) -> None:
    assert loop(**changes) == runs


def test_the_compilers_own_count_comes_first() -> None:
    text = LOOP.format(start=0, end=6, step=1, operation="add", direction="LT")
    noted = text.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    module = hlo.parse(noted)
    assert trip_count(module, module.entry.by_name["loop"], module.entry) == 5


def test_shapes() -> None:
    found = hlo.buffers("(bf16[8,4]{1,0:T(8,128)(2,1)S(3)}, /*index=1*/u32[]{:S(2)}, pred[7]{0})")
    assert [(b.dtype, b.dims, b.memory_space) for b in found] == [
        ("bf16", (8, 4), 3),
        ("u32", (), 2),
        ("pred", (7,), hlo.HBM),
    ]
    assert [b.num_bytes for b in found] == [64, 4, 7]
    assert hlo.buffers("s4[3]{0}")[0].num_bytes == math.ceil(3 / 2)


def test_instructions() -> None:
    module = hlo.parse(LOOP.format(start=0, end=6, step=1, operation="add", direction="LT"))
    assert set(module.computations) == {"body", "test", "condition", "main"}
    entry = module.entry
    assert [i.opcode for i in entry.instructions][-2:] == ["while", "get-tuple-element"]
    assert entry.root.operands == ("loop",)
    assert entry.root.attribute("index") == "1"
    assert entry.by_name["loop"].called("body") == "body"
    assert entry.by_name["loop"].all_called == ("condition", "body")
    assert entry.by_name["start"].literal == "0"
    assert entry.by_name["loop"].backend_config == {}
    assert {i.opcode for i in module.reachable("condition")} >= {"fusion", "compare"}


def test_what_another_core_does() -> None:
    text = """HloModule offloaded, is_scheduled=true

%scattered (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %s = f32[8]{0} fusion(%x), kind=kCustom, backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
}, execution_thread="sparsecore"

%compare (a: s32[], b: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  %b = s32[] parameter(1)
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

ENTRY %main (y: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} parameter(0)
}
"""  # noqa: E501
    module = hlo.parse(text)
    assert set(module.computations) == {"scattered", "compare", "main"}
    assert [i.name for i in module.computations["scattered"].instructions] == ["x", "s"]
    assert module.computations["scattered"].root.estimated_cycles is None


def test_text_of_other_things_is_refused() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("module @jit_f { }")


def test_replica_groups_of_a_mesh_with_device_ids_are_one_attribute() -> None:
    groups = "mesh['a'=1,'b'=2,'c'=2], device_ids=([2,2]T(1,0)) {'b','c'}"
    text = (
        "ENTRY %main (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
        f"  ROOT %sum = f32[8]{{0}} all-reduce(%p), channel_id=3, replica_groups={groups},"
        " use_global_device_ids=true, to_apply=%add\n}\n"
    )
    root = hlo.parse(text).entry.root
    assert root.attribute("replica_groups") == groups
    assert root.attribute("channel_id") == "3"
    assert root.attribute("to_apply") == "%add"
