"""The committed model is the one its scripts make."""

import json

from tests.words20 import MODEL, RECORD, file_hash, scripts_hash


def test_the_model_was_made_by_the_scripts_as_they_are():
    """A changed script asks for ``python -m tests.words20.train``, which records the hashes."""
    assert json.loads(RECORD.read_text()) == {"scripts": scripts_hash(), "model": file_hash(MODEL)}
