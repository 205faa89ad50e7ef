"""Cycles of kernels from their bundles: a captured kernel, and small made-up programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_jax.plan import hlo
from flan_jax.plan.bundles import parse_bundles
from flan_jax.plan.kernel_cycles import (
    KernelCost,
    TooLongError,
    bundle_costs,
    evaluate,
    run_kernel,
    typical_scalars,
)

# A Pallas kernel for a v4: grid 4 x 4 (i, k) of blocks of 128 x 128 bfloat16; zeroes its sum where
# k = 0, multiplies where k <= i, writes where k = 3.
TRIANGLE = Path(__file__).parent / "samples" / "triangle_final_bundles.txt"
BLOCK = 128 * 128 * 2


def loop(end: str = "4", skip: str = "scmp.ge.s32.totalorder %i_s1, 3", body: int = 10) -> str:
    """`for i in range(end)`: 4 bundles, and `body` more unless `skip`."""
    filler = "\n".join(
        f"  {hex(5 + n)}   : > {{ %9 = vadd.f32 %v1, %v2 }}" for n in range(body - 1)
    )
    last = 4 + body
    return f"""
     0   :  {{ %z_s1 = smov 0  ;;  %c_s3 = sld [smem:[#allocation0]] /* core id */ }}
   0x1   LB: > {{ %i_s1 = sphi %z_s1, %n_s1  ;;  %p0_p0 = {skip} }} /* Start region 7 */
   0x2   : > {{ %1 = sbr.rel (%p0_p0) target = $region9 }}
   0x3   : > {{ %8 = vadd.f32 (!%p0_p0), %v1, %v2 }} /* End region 1 :: Start region 8 */
{filler}
   {hex(last)}   : > {{ %n_s1 = sadd.s32 1, %i_s1 }} /* End region 8 :: Start/End empty region 9 */
   {hex(last + 1)}   : > {{ %p1_p1 = scmp.ge.s32.totalorder %n_s1, {end} }}
   {hex(last + 2)}   :  {{ %2 = sbr.rel (!%p1_p1) target = $region7 }}
   {hex(last + 3)}   : > {{ %3 = vnop }} /* End region 7 */
"""


def test_a_captured_kernel() -> None:
    kernel = parse_bundles(TRIANGLE.read_text(encoding="utf-8"))
    cost = run_kernel(kernel)
    assert cost.unknown_branches == 0
    # Both operands move on at each of 16 steps, the result at each of four.
    assert cost.bytes_copied == (16 + 16 + 4) * BLOCK
    # The body that multiplies has 72 bundles more than the one that does not, and runs 10 times.
    assert 16 * 100 < cost.cycles < 16 * len(kernel.bundles)
    # Its grid is not parallel: the second core leaves at once.
    assert run_kernel(kernel, core=1) == KernelCost(6, 0, 0)


@given(st.integers(1, 30), st.integers(-1, 31), st.integers(2, 20))
def test_loops_and_skipped_regions(end: int, first_skipped: int, body: int) -> None:
    skip = f"scmp.ge.s32.totalorder %i_s1, {first_skipped}"
    cost = run_kernel(parse_bundles(loop(str(end), skip, body)))
    run = min(end, max(first_skipped, 0))
    # A bundle before the loop; each run has seven, and the rest of the body if not skipped.
    assert cost.cycles == 1 + 7 * end + (body - 1) * run
    assert cost.unknown_branches == 0


def test_branches_on_data_count_what_they_may_skip() -> None:
    cost = run_kernel(parse_bundles(loop(skip="scmp.ge.s32.totalorder %unread_s9, 3")))
    assert cost.unknown_branches == 4
    assert cost.cycles == 1 + 4 * (7 + 9)


def test_loops_that_end_by_data_are_given_up() -> None:
    with pytest.raises(TooLongError):
        run_kernel(parse_bundles(loop(end="%unread_s9")))


def test_loops_by_prefetched_scalars_run_as_the_kernel_says() -> None:
    """Four blocks, of which each reads how often its inner loop runs: 1, 2, 1, 2."""
    text = """
     0   :  { %z_s1 = smov 0  ;;  %zero_s4 = smov 0 }
   0x1   LB: > { %i_s1 = sphi %z_s1, %n_s1 } /* Start region 7 */
   0x2   : > { %end_s5 = sld [smem:[#allocation6 + %i_s1]] }
   0x3   LB: >> { %k_s6 = sphi %zero_s4, %m_s6  ;;  %m_s6 = sadd.s32 1, %k_s6 } /* Start region 8 */
   0x4   : >> { %p1_p1 = scmp.ge.s32.totalorder %m_s6, %end_s5 }
   0x5   : >> { %1 = sbr.rel (!%p1_p1) target = $region8 } /* End region 8 */
   0x6   : > { %n_s1 = sadd.s32 1, %i_s1 }
   0x7   : > { %p2_p2 = scmp.ge.s32.totalorder %n_s1, 4 }
   0x8   :  { %2 = sbr.rel (!%p2_p2) target = $region7 } /* End region 7 */
"""
    kernel = parse_bundles(text)
    assert run_kernel(kernel, scalars=(1, 2)).cycles == 1 + 4 * 5 + 3 * (1 + 2 + 1 + 2)
    with pytest.raises(TooLongError):
        run_kernel(kernel)


def test_long_kernels_are_given_up() -> None:
    with pytest.raises(TooLongError):
        run_kernel(parse_bundles(loop(end="1000000")), max_steps=1000)


@pytest.mark.parametrize(
    ("code", "values", "result"),
    [
        ("sadd.s32", [2**31 - 1, 1], -(2**31)),
        ("sand.u32", [-1, 255], 255),
        ("sshrl.u32", [-1, 28], 15),
        ("sshra.s32", [-16, 2], -4),
        ("scmp.lt.s32.totalorder", [-1, 0], True),
        ("scmp.lt.u32.totalorder", [-1, 0], False),
        ("scalar_select", [True, 1, None], 1),
        ("scalar_select", [None, 1, 2], None),
        ("por", [None, True], True),
        ("por", [None, False], None),
        ("pand", [None, False], False),
        ("pnand", [None, False], True),
        ("pnand", [True, True], False),
        ("pneg", [False], True),
        ("sadd.s32", [None, 1], None),
        ("sunheard.s32", [1, 1], None),
    ],
)
def test_scalar_operations(code: str, values: list[int | bool | None], result: object) -> None:
    assert evaluate(code, values) == result


def test_costs_are_found_by_name_and_shared_by_the_same_kernel(tmp_path: Path) -> None:
    shutil.copy(TRIANGLE, tmp_path / "123-triangle.1-07-final_bundles.txt")
    (tmp_path / "123-triangle.1-06-schedule-analysis_final_bundles.txt").write_text("other")
    call = (
        '  %{} = f32[8]{{0}} custom-call(), custom_call_target="tpu_custom_call", '
        'backend_config={{"custom_call_config":{{"body":"{}"}}}}'
    )
    lines = [call.format(*it) for it in (("triangle.1", "A"), ("twin.2", "A"), ("other.3", "B"))]
    module = hlo.parse("ENTRY %main () -> f32[8] {\n" + "\n".join(lines) + "\n}\n")
    costs = bundle_costs(tmp_path, module, cores=2)
    assert set(costs) == {"triangle.1", "twin.2"}
    assert costs["triangle.1"] == costs["twin.2"]
    assert costs["triangle.1"].bytes_copied == 36 * BLOCK


def test_typical_scalars() -> None:
    text = """ENTRY %main () -> f32[8] {
  ROOT %k = f32[8]{0} custom-call(), custom_call_target="tpu_custom_call", METADATA
}}, metadata={op_name="a"}
}
""".replace("METADATA", 'frontend_attributes={kernel_metadata={\n"typical_scalars":"0,1,0,2"')
    kernel = hlo.parse(text).entry.root
    assert typical_scalars(kernel) == (0, 1, 0, 2)
    assert kernel.op_name == "a"
