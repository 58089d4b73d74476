"""The page of a server in a real browser."""

import contextlib
import os
import shutil

import numpy as np
import pytest

from tests.serving.servers import request, rows, serving
from tests.support.needs import SERVE, need
from tests.training.list_logs import make_dataset
from tests.training.runs import small_config

need(*SERVE, "selenium")

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from robe_numba.serving import Scorer
from robe_numba.training import train

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TOKEN = "a-token-of-24-characters"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH"
)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, log_output=os.devnull))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    """The browser; what its console complained about is an error."""
    yield browser
    complaints = [line["message"] for line in browser.get_log("browser")]
    assert [line for line in complaints if "401" not in line] == []


@contextlib.contextmanager
def opened(browser, *arguments):
    """A server whose page is shown; the browser leaves it before the server ends."""
    with serving(*arguments) as server:
        browser.get(f"http://{server.host}:{server.port}/")
        yield server
        browser.get("about:blank")


def until(browser, condition):
    return WebDriverWait(browser, 30, 0.05).until(lambda _: condition())


def shown(browser, name):
    """Cells of the model's line; read at once, since the page renews its lines."""
    lines = browser.execute_script(
        "return [...document.querySelectorAll('#models tr')].map((line) =>"
        " [...line.cells].map((cell) => cell.textContent))"
    )
    return next((cells for cells in lines if cells[0] == name), None)


def test_models_are_shown_and_a_row_is_scored(page, run, run_of_ids, scorer):
    dense, ids = rows(scorer, 1, seed=4)
    with opened(page, f"first={run}", f"second={run_of_ids}") as server:
        cells = until(page, lambda: shown(page, "first"))
        assert cells[1] == scorer.version
        assert cells[2].endswith(" kB")
        assert shown(page, "second")
        assert not page.find_element(By.ID, "login").is_displayed()
        # Live: a request of another client appears.
        body = request(*rows(scorer, 5))
        until(
            page,
            lambda: (
                server.ask("POST", "/v2/models/first/infer", body)
                and shown(page, "first")[5] == "5"  # rows per batch
                and shown(page, "first")[7].endswith("ms")
            ),
        )
        fields = page.find_elements(By.CSS_SELECTOR, "fieldset label")
        assert [field.text for field in fields] == [*scorer.dense_names, *scorer.id_names]
        values = ["" if np.isnan(x) else f"{x:g}" for x in dense[0]] + [str(x) for x in ids[0]]
        for field, value in zip(fields, values, strict=True):
            field.find_element(By.TAG_NAME, "input").send_keys(value)
        page.find_element(By.ID, "go").click()
        result = page.find_element(By.ID, "result")
        until(page, lambda: result.text)
        assert f"probability {scorer(dense, ids)[0]:.6f} in " in result.text
        # A refusal is shown as text.
        fields[-1].find_element(By.TAG_NAME, "input").send_keys("9" * 30)
        page.find_element(By.ID, "go").click()
        until(page, lambda: "data of ids is not" in result.text)
        Select(page.find_element(By.ID, "model")).select_by_value("second")
        visible = [f for f in page.find_elements(By.CSS_SELECTOR, "fieldset") if f.is_displayed()]
        assert [f.text for f in visible[0].find_elements(By.TAG_NAME, "label")] == ["user", "item"]
        assert len(visible) == 1
        # Refusals are complaints of the console, too.
        assert "400" in page.get_log("browser")[0]["message"]


def test_lists_are_scored(page, tmp_path):
    run = train(make_dataset(tmp_path), small_config(batch_size=150), tmp_path / "run").path
    with opened(page, f"m={run}"):
        until(page, lambda: shown(page, "m"))
        fields = {
            label.text: label.find_element(By.TAG_NAME, "input")
            for label in page.find_elements(By.CSS_SELECTOR, "fieldset label")
        }
        assert list(fields) == ["price", "site", "genres", "seen", "seen_weights"]
        result, scorer = page.find_element(By.ID, "result"), Scorer(run)
        dense, ids = np.array([[0.5]]), np.array([[3]])
        for texts, multi_hot in [
            (("", "", ""), ([], [0, 0], [])),
            (
                ("4 18 4", f"7 {2**63 - 1}", ".5 2e0"),
                ([4, 18, 4, 7, 2**63 - 1], [3, 2], [1, 1, 1, 0.5, 2]),
            ),
        ]:
            for name, text in zip(fields, ("0.5", "3", *texts), strict=True):
                fields[name].clear()
                fields[name].send_keys(text)
            values, lengths, weights = multi_hot
            lists = np.array(values, np.int64), np.array([lengths]), np.array(weights, np.float32)
            page.find_element(By.ID, "go").click()
            wanted = f"probability {scorer(dense, ids, lists)[0]:.6f} in "
            until(page, lambda wanted=wanted: wanted in result.text)
        fields["seen_weights"].send_keys(" 1")
        page.find_element(By.ID, "go").click()
        until(page, lambda: result.text == "seen_weights needs 2 numbers")


def test_the_page_asks_for_the_token(page, run, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    with opened(page, f"m={run}", "--token-file", tmp_path / "token"):
        field = page.find_element(By.ID, "token")
        until(page, field.is_displayed)
        assert not page.find_element(By.ID, "content").is_displayed()
        field.send_keys("wrong\n")
        state = page.find_element(By.ID, "state")
        until(page, lambda: "the token is wrong" in state.text)
        field.send_keys(TOKEN + "\n")
        until(page, lambda: shown(page, "m"))
        assert not field.is_displayed()


def test_names_are_text_and_nothing_foreign_runs(page, run):
    """What another origin or an injected element could do is forbidden by the policy."""
    with opened(page, f"m={run}"):
        until(page, lambda: shown(page, "m"))
        page.execute_script(
            "document.body.insertAdjacentHTML('beforeend',"
            ' \'<img src="data:," onerror="window.hacked = true">\');'
            "const script = document.createElement('script');"
            "script.textContent = 'window.hacked = true'; document.body.append(script);"
        )
        assert page.execute_script("return window.hacked") is None
        complaints = [line["message"] for line in page.get_log("browser")]
        assert len([line for line in complaints if "Content Security Policy" in line]) == 2
