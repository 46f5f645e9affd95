"""The console command ``bargein``: what starts, shows and asks the rest. Nothing imports it."""
