"""The list of studies, the form, a run that is watched, and tokens."""

from __future__ import annotations

import re

from affinity_service.artifacts import StudyFolder
from affinity_service.service.auth import TokenStore, token_file
from tests.browser.expecting import expect
from tests.browser.serving import SaidToRun, serving
from tests.browser.studies import write_progress


def test_the_list_leads_to_a_study(visit):
    page = visit()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="camps"))
    expect(row).to_contain_text("finished")
    expect(row).to_contain_text("12")
    page.get_by_label("Find a study").fill("large")
    expect(row).to_be_hidden()
    page.get_by_label("Find a study").fill("")
    page.get_by_role("link", name="camps").click()
    expect(page.get_by_role("heading", level=1, name="camps")).to_be_focused()
    expect(page).to_have_title("camps – Task affinity")


def test_a_run_is_watched_as_it_goes(visit, service):
    page = visit("study/running")
    stage = page.locator(".stages li", has_text="gradients")
    expect(stage).to_contain_text("of 8 · gradient shards")
    expect(page.locator("#progress .log")).to_contain_text("3/8 gradient shards")
    write_progress(StudyFolder.at(service.root / "running"), 6, 8)
    expect(stage).to_contain_text("6 of 8")
    expect(stage.get_by_role("progressbar", name="gradients")).to_have_js_property("value", 0.75)
    expect(page.locator(".analysis")).to_contain_text("appear here when the stage")


def test_of_a_log_that_was_cut_it_is_said(visit):
    page = visit("study/running")
    expect(page.locator("#progress .log")).to_contain_text("3/8 gradient shards")
    expect(page.get_by_text("Only the end of the log is shown.")).to_be_hidden()
    cut = {"X-Log-Truncated": "true"}
    page.route("**/logs?*", lambda route: route.fulfill(content_type="text/plain", headers=cut, body="the end"))
    expect(page.locator("#progress .log")).to_have_text("the end")
    expect(page.get_by_text("Only the end of the log is shown.")).to_be_visible()


def test_a_stream_that_breaks_is_connected_again(visit, service):
    page = visit("study/running")
    expect(page.locator(".stages li", has_text="gradients")).to_contain_text("of 8")
    page.route("**/events", lambda route: route.fulfill(content_type="text/event-stream", body=": nothing\n\n"))
    page.reload()
    expect(page.locator(".facts.offline")).to_be_visible()
    page.unroute("**/events")
    expect(page.locator(".facts:not(.offline)")).to_be_visible()
    write_progress(StudyFolder.at(service.root / "running"), 7, 8)
    expect(page.locator(".stages li", has_text="gradients")).to_contain_text("7 of 8")


def test_a_config_is_submitted_refused_corrected_and_cancelled(visit, opened):
    page = visit()
    opened.expected.append("422")
    config = page.get_by_label("Config (YAML)")
    config.fill("name: mine\ndata: {source: yeast}\nfits: {subsetz: 3}\n")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#config-error")).to_contain_text("subsetz")
    expect(config).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Fill in an example").click()
    page.get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", level=1, name="mine")).to_be_visible()
    expect(page.locator(".facts .badge")).to_contain_text(re.compile("running|queued"))
    page.get_by_role("button", name="Cancel the run").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Let it run").click()
    expect(page.locator(".facts .badge")).to_contain_text("running")
    page.get_by_role("button", name="Cancel the run").click()
    dialog.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".facts .badge")).to_contain_text("cancelled")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".facts .badge")).to_contain_text("running")


def test_a_study_that_is_not_there_is_said_to_be_missing(visit, opened):
    opened.expected.append("404")
    page = visit("study/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("nowhere")
    page.get_by_role("link", name="All studies").click()
    expect(page.get_by_role("heading", level=1, name="Studies")).to_be_visible()


def test_a_token_is_asked_for_and_sent(visit, studies, opened):
    secrets = {scope: TokenStore(token_file(str(studies), None)).create(scope, scope)[1] for scope in ("read", "write")}
    opened.expected.append("401")
    try:
        with serving(studies, SaidToRun(), require_tokens=True) as address:
            page = visit("study/camps", address=address)
            page.get_by_label("Token", exact=True).fill("wrong")
            page.get_by_role("button", name="Use this token").click()
            expect(page.get_by_role("dialog")).to_contain_text("does not know this token")
            page.get_by_label("Token", exact=True).fill(secrets["read"])
            page.get_by_role("button", name="Use this token").click()
            expect(page.get_by_role("heading", level=1, name="camps")).to_be_visible()
            expect(page.get_by_role("banner")).to_contain_text("may read")
            with page.expect_download() as saved:
                page.get_by_role("button", name="Affinity (CSV)").click()
            assert saved.value.suggested_filename == "camps_affinity.csv"
            page.reload()
            expect(page.get_by_role("heading", level=1, name="camps")).to_be_visible()
            page.goto(f"{address}#/")
            expect(page.get_by_role("link", name="camps")).to_be_visible()
            expect(page.get_by_role("heading", name="Start a study")).to_have_count(0)
            page.get_by_role("button", name="Forget token").click()
            page.get_by_role("button", name="Not now").click()
            expect(page.get_by_role("alert")).to_be_visible()
            page.get_by_role("button", name="Try again").click()
            page.get_by_label("Token", exact=True).fill(secrets["write"])
            page.get_by_role("button", name="Use this token").click()
            expect(page.get_by_role("heading", name="Start a study")).to_be_visible()
    finally:
        for scope in secrets:
            TokenStore(token_file(str(studies), None)).revoke(scope)
        token_file(str(studies), None).unlink()
