"""The machine underneath: devices, memory, files written whole, and processes of our own."""
