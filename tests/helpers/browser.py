"""A real browser without a window, for tests of pages."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def open_browser():
    """Selenium's driver of Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra 'test'")
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1100,1200"):
        options.add_argument(argument)
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield found
    finally:
        found.quit()


def open_page(browser, server):
    """The page of a running server, with its fields."""
    browser.get(f"http://{server.rest}/")
    return until(browser, lambda page: page.find_elements("css selector", "#fields input") and page)


def until(page, condition):
    """Wait for a condition of a page, and return its value."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(page, 20).until(condition)


def choose(page, field, text):
    """Choose an entry of a list."""
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", field)).select_by_visible_text(text)


def write(page, name, text):
    """Write into a field, in place of what it had."""
    field = page.find_element("name", name)
    field.clear()
    field.send_keys(text)
