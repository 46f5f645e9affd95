import pytest

from tests.product import Product, running_product


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails shows the end of the product's log."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Product):
                report.sections.append(("the product's log", value.log[-6000:]))
    return report


@pytest.fixture(scope="package")
def product(tmp_path_factory):
    """One running product for the tests that do it no lasting harm."""
    with running_product(tmp_path_factory.mktemp("product"), RECORD_CALLS="true") as running:
        yield running
