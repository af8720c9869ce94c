"""The page, in a real browser."""

import pytest
from helpers.browser import choose, open_browser, open_page, until, write
from helpers.saved_models import probability

selenium = pytest.importorskip("selenium", reason="needs selenium, of the extra 'test'")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

# Selenium and a browser that goes away leave sockets behind.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.neutral,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser, server):
    return open_page(browser, server)


def press(page, button):
    page.find_element(By.ID, button).click()
    until(page, lambda p: p.find_element(By.ID, "go").is_enabled())


def text_of(page, field):
    return page.find_element(By.ID, field).get_attribute("textContent").strip()


def result(page):
    until(page, lambda p: p.find_element(By.ID, "result").is_displayed())
    rows = page.find_elements(By.CSS_SELECTOR, "#pairs tr")
    return text_of(page, "probability"), [tuple(cell.text for cell in row.find_elements(By.TAG_NAME, "td")[:2]) for row in rows]


def test_values_are_filled_in_and_explained(page):
    choose(page, "version", "1")
    choose(page, "signature", "serving_default")
    for name, text in (("price", "1.5"), ("age", "2"), ("city", "7"), ("tags", "1, 4")):
        write(page, name, text)
    press(page, "go")
    shown, pairs = result(page)
    assert shown == f"{probability([[1.5, 2]], [[7, 1, 4]])[0, 0]:.4f}"
    assert pairs[0] == ("price × city", "+2.0000")
    assert "/versions/1:predict" in text_of(page, "curl") and '"sparse": [[7, 1, 4]]' in text_of(page, "curl")
    assert "price = 1.5" in text_of(page, "singles") and "tags = 1,4" in text_of(page, "singles")
    choose(page, "version", "2")
    choose(page, "signature", "serving_default")
    write(page, "tags", "")
    press(page, "go")
    assert result(page)[0] == f"{probability([[1, 1]], [[7, -1, -1]], 1.0)[0, 0]:.4f}"


def test_raw_texts_come_first_and_start_from_the_warm_up_request(page):
    assert Select(page.find_element(By.ID, "signature")).first_selected_option.text == "raw"
    assert page.find_element(By.NAME, "tags").get_attribute("value") == "a|b"
    write(page, "city", 'Oslo "x" \\')
    press(page, "go")
    assert result(page)[1]
    press(page, "reset")
    assert page.find_element(By.NAME, "city").get_attribute("value") == "Oslo"


def test_random_values_are_legal(page):
    choose(page, "signature", "serving_default")
    for _ in range(5):
        press(page, "random")
        press(page, "go")
        result(page)
        assert not page.find_element(By.ID, "error").is_displayed()


@pytest.mark.parametrize(("name", "text", "message"), [
    ("price", "dear", "price: “dear” is not a number."),
    ("city", "1.5", "city: “1.5” is not an id."),
    ("tags", "1,2,3", "tags: at most 2 values."),
    ("city", "99999999999999999999", "input 'sparse' "),
    ("price", "1e39", "input 'dense' has a number that DT_FLOAT cannot hold."),
])  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(page, name, text, message):
    choose(page, "signature", "serving_default")
    write(page, name, text)
    press(page, "go")
    until(page, lambda p: p.find_element(By.ID, "error").is_displayed())
    assert message in text_of(page, "error")


def test_the_page_loads_nothing_from_elsewhere_and_logs_no_error(page, server):
    press(page, "go")
    result(page)
    loaded = page.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert loaded and all(name.startswith(f"http://{server.rest}/") for name in loaded)
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE" and "400" not in entry["message"]] == []
