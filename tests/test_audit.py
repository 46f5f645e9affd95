"""What ``make audit`` says of pins; its data is a stand-in here."""

from tests.audit import ACCEPTED, PINNED, ROOT, known, pins

ADVISORIES = {
    "Some.Package": [
        {
            "id": "GHSA-1",
            "cve": "CVE-1",
            "v": ">=1.0,<1.4",
            "severity": "HIGH",
            "advisory": "it burns",
            "fixed_in": "1.4",
        },
        {"id": "GHSA-2", "cve": "", "v": "<0.8.3ubuntu7.5", "severity": "LOW", "advisory": "x", "fixed_in": "2"},
    ]
}


def test_a_pinned_version_that_is_vulnerable_is_named():
    """Whatever its name's spelling; with its file, what is wrong and what mends it."""
    found, unread = known({"a.txt": "some_package==1.3 ; python_version > '3'\nother==1"}, ADVISORIES)
    assert [str(each) for each in found] == ["a.txt: some-package 1.3: GHSA-1: it burns (CVE-1), mended in 1.4"]
    assert unread == 1


def test_a_mended_version_is_fine():
    assert known({"a.txt": "some-package==1.4"}, ADVISORIES)[0] == []


def test_pins_are_found_wherever_they_stand():
    """Extras and markers do not hide them; comments are none."""
    text = "a==1\n# b==2\nx[y,z]==3.0 ; extra == 'q'  # c==4\n\tpip install -q torch==2.13.0 'd==5'\n"
    assert list(pins(text)) == [("a", "1"), ("x", "3.0"), ("torch", "2.13.0"), ("d", "5")]


def test_every_file_that_pins_is_looked_at():
    """A file of requirements or constraints that nobody audits would rot."""
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*.txt")}
    files |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/requirements*.txt")}
    assert files <= set(PINNED)
    assert all(list(pins((ROOT / file).read_text())) for file in PINNED)
    assert all(reason for reason in ACCEPTED.values())
