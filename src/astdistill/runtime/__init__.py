"""What every other package stands on: no word of the domain is in it."""
