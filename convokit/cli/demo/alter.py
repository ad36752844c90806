"""Change a stored reply without the library."""

import json
import sqlite3
from pathlib import Path

FOLDER = Path(__file__).parent
text = json.loads((FOLDER / "script.json").read_text("utf-8"))["altered_text"]
with sqlite3.connect(FOLDER / "demo.db") as database:
    database.execute("UPDATE convokit_message SET content = ? WHERE seq = 3", [text])
print("message 3:", text)
