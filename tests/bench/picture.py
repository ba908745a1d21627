#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-2-Clause
"""A picture of ratios: picture.py FILE.json > doc/speed.svg, from the samples that bench.py --json keeps.

One line for each point of speed, coll, halo, types, onesided and start: how many times as fast as the better of the others, the
median of paired ratios as a dot, their quartiles as a line, on a scale of powers of two. SVG by hand, so that it needs nothing to be
made and follows the reader's light or dark colours.
"""
import json
import math
import statistics
import sys
from html import escape

from base import SMALLER_IS_BETTER, ratio

LEFT, PLOT, RIGHT, ROW, TOP = 250, 430, 220, 20, 64
STYLE = """
  text { font: 12px sans-serif; fill: #222; }
  .title { font-size: 15px; font-weight: bold; }
  .group { font-weight: bold; }
  .small { font-size: 11px; fill: #666; }
  .grid { stroke: #ddd; }
  .one { stroke: #888; stroke-width: 1.5; }
  .better { stroke: #0969b0; fill: #0969b0; stroke-width: 2; }
  .worse { stroke: #c2510c; fill: #c2510c; stroke-width: 2; }
  .back { fill: #fff; }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd; } .small { fill: #999; } .grid { stroke: #333; } .one { stroke: #888; } .back { fill: #16181c; }
    .better { stroke: #58a6ff; fill: #58a6ff; } .worse { stroke: #f0883e; fill: #f0883e; }
  }"""


def pairs_of(result):
    """(way, samples of ours, samples of theirs) of one result, whatever bench made it; nothing for those without a peer."""
    samples = result.get("samples")
    if not isinstance(samples, dict):
        return []
    if result["what"] == "onesided":
        if "-pin" not in result["options"]:
            return []
        return [(name, samples["godwit"], s) for name, s in samples.items() if name == "mpich" and s]
    return [(way, s["godwit"], s["other"]) for way, s in samples.items() if isinstance(s, dict) and "godwit" in s]


def points(results):
    """(group, key, the better's name, our samples, ratios above 1 where we are better), in the order of the results."""
    found = {}
    for result in results:
        pairs = pairs_of(result)
        group = f"{result['what']}, {result.get('case') or result.get('how')}"
        keys = [k for k in (pairs[0][1][0] if pairs else {}) if all(k in b[0] for _, _, b in pairs)]
        for key in keys:
            pick = min if SMALLER_IS_BETTER.search(key) else max
            way, ours, theirs = pick(pairs, key=lambda p, key=key: statistics.median(s[key] for s in p[2] if key in s))
            ours, theirs = [s[key] for s in ours], [s[key] for s in theirs if key in s]
            found[group, key] = (group, key, way, ours, [ratio(key, a, b) for a, b in zip(ours, theirs)])
    return list(found.values())


def unit_of(key):
    for end, unit in (("_us", "µs"), ("_GB_s", "GB/s"), ("_Mmsg_s", "M/s")):
        if key.endswith(end):
            return key[:-len(end)].replace("_", " "), unit
    return key.replace("_", " "), ""


def words(value, unit):
    return f"{value / 1e6:.3g} s" if unit == "µs" and value >= 1e5 else f"{value:.3g} {unit}"


def draw(results):
    found = points(results)
    if not found:
        raise ValueError("there is nothing with ratios in it; run bench.py with --only speed, coll, halo, types, onesided or start")
    ends = [r for p in found for r in (min(p[4]), max(p[4]))]
    low, high = min(-2, math.floor(math.log2(min(ends)))), max(2, math.ceil(math.log2(max(ends))))
    low, high = max(low, -4), min(high, 5)

    def x(value):
        return LEFT + PLOT * (min(max(math.log2(value), low), high) - low) / (high - low)

    body, y, last = [], TOP, None
    for group, key, way, ours, ratios in found:
        if group != last:
            y += ROW // 2 if last else 0
            body.append(f'<text class="group" x="12" y="{y + 4}">{escape(group)}</text>')
            y, last = y + ROW, group
        middle = statistics.median(ratios)
        q = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else [middle] * 3
        kind = "better" if middle >= 1 else "worse"
        name, unit = unit_of(key)
        body.append(f'<text x="24" y="{y + 4}">{escape(name)}</text>'
                    f'<line class="{kind}" x1="{x(q[0]):.1f}" y1="{y}" x2="{x(q[2]):.1f}" y2="{y}"/>'
                    f'<circle class="{kind}" cx="{x(middle):.1f}" cy="{y}" r="3.5"/>'
                    f'<text x="{LEFT + PLOT + 14}" y="{y + 4}">{middle:.2f} <tspan class="small">of {escape(way)}; '
                    f'{escape(words(statistics.median(ours), unit))}</tspan></text>')
        y += ROW
    bottom, width = y + 8, LEFT + PLOT + RIGHT
    grid = []
    for power in range(low, high + 1):
        at = x(2 ** power)
        text = f"{2 ** power}" if power >= 0 else f"1/{2 ** -power}"
        grid.append(f'<line class="{"one" if power == 0 else "grid"}" x1="{at:.1f}" y1="{TOP - 14}" x2="{at:.1f}" y2="{bottom}"/>'
                    f'<text class="small" text-anchor="middle" x="{at:.1f}" y="{bottom + 14}">{text}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 24}" viewBox="0 0 {width} {bottom + 24}" role="img">'
            f'<title>Speed of Godwit beside other MPIs</title><style>{STYLE}\n</style>'
            f'<rect class="back" width="100%" height="100%"/>'
            f'<text class="title" x="12" y="22">How many times as fast as the better of MPICH and Open MPI</text>'
            f'<text class="small" x="12" y="38">right of 1: faster. Dot: median of paired ratios; line: quartiles. '
            f'Beside it: of whom, and what was measured of Godwit</text>'
            + "\n".join(grid + body) + "</svg>\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: picture.py FILE.json > picture.svg; bench.py --json FILE.json makes the file")
    try:
        with open(sys.argv[1], encoding="utf-8") as f:
            drawn = draw(json.load(f))
    except (OSError, ValueError) as e:
        sys.exit(f"picture.py: cannot draw '{sys.argv[1]}': {getattr(e, 'strerror', None) or e}; bench.py --json FILE makes such a file")
    print(drawn, end="")
