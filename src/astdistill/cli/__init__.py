"""The command line: `astdistill`."""
