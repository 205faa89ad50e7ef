"""Shows the report of a step on standard output."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from flan_jax.cli.tables import print_table

SHOWN_COLLECTIVES = 12


def show(report: Mapping[str, Any], *, plain: bool = False) -> None:
    """Prints a report."""
    for line in summary_lines(report):
        print(line)
    if "collectives" in report:
        _show_times(report, plain)
    for note in report.get("notes", ()):
        print(f"note        {note}")
    print(f"trust       {_TRUST[report['rough']]}")


_TRUST = {
    False: "memory and the collectives' kinds and bytes are the compiler's; times are estimates",
    True: "rough: memory and collectives are those of a program compiled for CPUs (too much rather "
    "than too little), times those of a roofline",
}


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in lines, without its tables."""
    mesh = ", ".join(f"{name} {size}" for name, size in report["mesh"].items() if size > 1)
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    lines = [
        f"step        {report['step']}, {report['batch_size']} rows, "
        f"{report['tokens_per_step']:,} tokens, on {report['topology']} ({report['chips']} chips; "
        f"mesh: {mesh or 'one device'})",
        f"memory      {verdict}: {report['hbm_gib_per_chip']:.2f} of "
        f"{report['hbm_limit_gib']:.2f} GiB a chip",
    ]
    if report["memory"]:
        parts = (
            f"{name.removesuffix('_gib')} {size:.2f}"
            for name, size in report["memory"].items()
            if name != "total_gib" and size >= 0.005
        )
        lines.append(f"            {', '.join(parts)} GiB")
    if not report["fits"]:
        lines += _large_lines(report)
    lines += [f"try         {hint}" for hint in report.get("hints", ())]
    if "step_time_s" in report:
        lines += _time_lines(report)
    seconds = report.get("trace_s", 0.0) + report["compile_s"]
    source = ", kept from before" if report["cached"] else ""
    lines.append(
        f"compiled    in {seconds:.0f} s with {report['peak_rss_gib']:.1f} GiB here{source}"
    )
    return lines


def _large_lines(report: Mapping[str, Any]) -> list[str]:
    """The compiler's largest buffers; where it names none, the largest arrays of the program."""
    buffers, title = report["largest_buffers"], "largest     buffers:"
    if not buffers:
        buffers, title = report["largest_arrays"], "largest     arrays, if they come to be:"
    if not buffers:
        return []
    return [
        title,
        *(f"            {each['gib']:8.2f} GiB  {each['name']}" for each in buffers[:10]),
    ]


def _time_lines(report: Mapping[str, Any]) -> list[str]:
    serial, overlapped = report["step_time_serial_s"], report["step_time_overlapped_s"]
    traffic = f", HBM traffic {report['hbm_traffic_s']:.4g} s"
    tokens = report["tokens_per_s"]
    lines = [
        f"FLOPs       {report['model_flops']:.3e} of the model a step",
        f"step time   {overlapped:.4g} to {serial:.4g} s (estimate; communication hidden where the "
        "schedule allows, or not at all)",
        f"            compute {report['compute_s']:.4g} s, communication "
        f"{report['communication_s']:.4g} s{traffic}",
        f"MFU         {report['mfu_serial']:.3f} to {report['mfu_overlapped']:.3f} (estimate)"
        + _by_bundles(report),
        f"tokens/s    {tokens['serial']:,.0f} to {tokens['overlapped']:,.0f} (padding included)",
    ]
    if "hours" in report:
        hours = report["hours"]
        lines.append(
            f"run         {hours['overlapped']:.1f} to {hours['serial']:.1f} hours for "
            f"{report['steps']:,} steps, without evaluation and checkpoints"
        )
    return lines


def _by_bundles(report: Mapping[str, Any]) -> str:
    """The MFU by the program's own bundles, where they could be counted."""
    if "by_bundles" not in report:
        return ""
    second = report["by_bundles"]
    return f"; {second['mfu_serial']:.3f} to {second['mfu_overlapped']:.3f} by its own schedule"


def _show_times(report: Mapping[str, Any], plain: bool) -> None:
    style = "plain" if plain else "auto"
    compute = [
        ("compute", name, f"{seconds:.4g}", f"{seconds / report['compute_s']:.1%}")
        for name, seconds in report["seconds_by_category"].items()
    ]
    print_table(("", "kind", "s", "share"), compute, format=style)
    rows = [
        (
            "collective",
            group["kind"],
            f"{group['payload'] / 2**20:.2f}",
            str(group["group_size"]),
            str(group["where"]),
            str(group["count"]),
            f"{group['seconds']:.4g}",
            "async" if group["overlappable"] else "waited for",
        )
        for group in report["collectives"][:SHOWN_COLLECTIVES]
    ]
    columns = ("", "kind", "MiB", "chips", "torus", "times", "s in all", "overlap")
    print_table(columns, rows, format=style)
    rest = report["collectives"][SHOWN_COLLECTIVES:]
    if rest:
        by_kind: dict[str, float] = defaultdict(float)
        for group in rest:
            by_kind[group["kind"]] += group["seconds"]
        listed = ", ".join(f"{kind} {seconds:.3g} s" for kind, seconds in by_kind.items())
        print(f"            and {len(rest)} more: {listed}")
