"""What people do with an archive: each operation has a printable plan and returns a frozen Report. No adapter code."""
