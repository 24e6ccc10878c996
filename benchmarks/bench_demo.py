"""How long ``make demo`` takes after installation, its peak memory, and what its service does per budget."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import save

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import demo


def main() -> None:
    """Runs the demo in an empty directory, then asks its service again for the numbers behind the table."""
    with tempfile.TemporaryDirectory() as directory:
        zoo = Path(directory) / "demo-zoo"
        start = time.monotonic()
        subprocess.run([sys.executable, demo.__file__, zoo], check=True)
        seconds = time.monotonic() - start
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # the largest single process
        with demo.serving(zoo) as uri:
            rows = demo.ask_all(zoo, uri, Path(directory) / "digit.npy")
    save("demo", {"seconds": round(seconds, 1), "peak_bytes": peak_bytes, "rows": [row._asdict() for row in rows]})


if __name__ == "__main__":
    main()
