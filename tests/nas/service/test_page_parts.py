"""Parts of the page that compute: axes, numbers, durations, and when a page that is told often draws."""

from __future__ import annotations

from importlib.resources import files

import pytest

STATIC = files("nas").joinpath("service", "static")


@pytest.fixture(scope="module")
def parts(chromium):
    """Evaluates an expression over a module of the page: parts("dom.js", "m.number(1)")."""
    context = chromium.new_context()
    page = context.new_page()

    def evaluate(module, expression):
        source = STATIC.joinpath(module).read_text(encoding="utf-8")
        load = "const m = await import('data:text/javascript;charset=utf-8,' + encodeURIComponent(source));"
        return page.evaluate(f"async (source) => {{ {load} return {expression}; }}", source)

    yield evaluate
    context.close()


BULK = "Array.from({ length: 40 }, (_, i) => 2 + i / 40)"


@pytest.mark.parametrize("outlier", ["88", "-500", "1e30"])
@pytest.mark.parametrize("of_front", ["[]", "[outlier]"])
def test_one_outlier_does_not_press_the_others_together(parts, outlier, of_front):
    """Whether it is on the front or not; it is counted, and the axis still reaches it."""
    best = f"[2, 2.1, 2.2, 2.3, ...{of_front}]"
    call = f"((outlier) => m.scaleOf([...{BULK}, outlier], {best}))({outlier})"
    found = parts(
        "scales.js",
        f"(({{low, high, first, last, outside, isLog}}) => ({{low, high, first, last, outside, isLog}}))({call})",
    )
    assert 1.8 < found["low"] <= 2 < 2.975 <= found["high"] < 3.2
    assert found["outside"] == 1
    assert not found["isLog"]
    assert found["first"] <= float(outlier) <= found["last"]


def test_a_front_far_from_the_other_trials_is_in_sight(parts):
    """The best of a long search are outliers among all its trials, and what it was run for."""
    scale = f"m.scaleOf([...{BULK}.map((v) => v + 50), 1, 1.2], [1, 1.2])"
    found = parts("scales.js", f"((s) => [s.from(s.low), s.from(s.high)])({scale})")
    assert found[0] < 1
    assert found[1] > 52.9


def test_values_over_decades_are_on_a_logarithmic_axis_with_round_ticks(parts):
    values = "Array.from({ length: 30 }, (_, i) => 10 ** (i / 10))"
    scale = f"m.scaleOf({values}, [])"
    assert parts("scales.js", f"{scale}.isLog") is True
    assert parts("scales.js", f"{scale}.ticks.map((t) => Number({scale}.from(t).toPrecision(3)))") == [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1000,
    ]  # fmt: skip
    assert parts("scales.js", f"m.scaleOf([-1, ...{values}], []).isLog") is False


def test_equal_values_and_a_single_one_have_an_axis(parts):
    for values in ("[3]", "[3, 3, 3]", "[0, 0]"):
        low, high = parts("scales.js", f"(({{low, high}}) => [low, high])(m.scaleOf({values}, {values}))")
        assert low < high


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("180000", "180\u00a0k"),
        ("98543", "98.54\u00a0k"),
        ("2e6", "2\u00a0M"),
        ("-3.2e9", "-3.2\u00a0G"),
        ("1.5e12", "1.50e+12"),
        ("9999", "9999"),
        ("0.25", "0.25"),
        ("null", "-"),
    ],
)
def test_a_number_keeps_its_letter_and_no_zeros(parts, value, shown):
    assert parts("dom.js", f"m.number({value})") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ("0.25", "250 ms"),
        ("59.5", "59.5 s"),
        ("60", "1 min"),
        ("754", "12 min 34 s"),
        ("3599.9", "1 h"),
        ("4211", "1 h 10 min"),
        ("86399", "1 d"),
        ("200000", "2 d 8 h"),
        ("null", ""),
    ],
)
def test_a_duration_is_in_its_two_largest_units(parts, seconds, shown):
    assert parts("dom.js", f"m.duration({seconds})") == shown


def test_what_is_asked_for_without_a_pause_is_done_again_and_again(parts):
    """The calls never stop, so that waiting for silence would wait for ever; and the last one is not lost."""
    counted = """await (async () => {
        let asked = 0, seen = [];
        const work = m.throttled(() => { seen.push(asked); }, 20);
        while (seen.length < 4) { asked++; work(); await new Promise((resolve) => setTimeout(resolve, 2)); }
        const often = asked > seen.length;
        asked = -1; work();
        while (seen.at(-1) !== -1) await new Promise((resolve) => setTimeout(resolve, 2));
        return often;
    })()"""
    assert parts("dom.js", counted) is True
