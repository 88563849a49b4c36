"""From what was asked to what will be used, with the memory and the time that it takes."""
