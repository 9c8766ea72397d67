"""What is read off a page of metrics, whatever it holds, and what came between two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.top import samples
from fastgw.top.samples import Growth, Page
from tests.top.pages import text


def test_totals_and_labels() -> None:
    page = Page(text(0), 1.0)
    assert page.total("gateway_queue_waiting") == 3
    assert page.total("gateway_queue_waiting", priority="high") == 1
    assert page.total("gateway_requests_total", status_code="5*") == 10
    assert page.total("gateway_no_such_thing") is None
    assert set(page.by("model", "gateway_requests_total")) == {"llama", 'b"\\\n\x1b[2J', ""}


def test_rates_and_percentiles_are_of_what_came_between() -> None:
    grown = Growth(Page(text(0), 50.0), Page(text(1), 60.0))
    assert grown.rate("gateway_requests_total", model="llama") == 120.5
    assert grown.rate("gateway_no_such_thing") is None
    first = "gateway_time_to_first_token_seconds"
    assert grown.percentile(0.5, first) == pytest.approx(0.1 * 50 / 60)
    assert grown.percentile(0.9, first) == pytest.approx(0.1 + 0.1 * 30 / 40)
    assert grown.percentile(0.9, first, model="other") is None


def test_a_gateway_that_was_started_again_has_grown_from_nothing() -> None:
    grown = Growth(Page(text(1), 50.0), Page(text(0), 60.0))
    assert grown.rate("gateway_requests_total", model="llama", status_code="200") == 100
    assert Growth(None, Page(text(0), 60.0)).rate("gateway_requests_total") is None
    above = 'gateway_x_seconds_bucket{le="1"} 0\ngateway_x_seconds_bucket{le="+Inf"} 4\n'
    assert Growth(Page("", 0.0), Page(above, 1.0)).percentile(0.5, "gateway_x_seconds") == 1.0


@pytest.mark.parametrize(
    "line",
    ["gateway_x", "gateway_x{", "gateway_x nan", "gateway_x +Inf", "gateway_x 1 2 3", "gateway_x 1e999", "gateway_x -1e308",
     "gateway_x 1-2", "# gateway_x 1", "gateway_x{" + 'a="b",' * 800 + "} 1"],
)  # fmt: skip
def test_what_is_no_sample_is_passed_over(line: str) -> None:
    page = Page(f"{line}\ngateway_y 1\n", 0.0)
    assert (page.total("gateway_x"), page.total("gateway_y")) == (None, 1)


@given(st.text(alphabet='gateway_x{}="\\,. 0123456789eE+-\n', max_size=200))
def test_no_page_raises(said: str) -> None:
    Page(said, 0.0)


def test_a_page_without_end_is_read_as_far_as_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_SAMPLES", 3)
    assert Page("gateway_x 1\n" * 5, 0.0).total("gateway_x") == 3
