"""Setting the cloud up: `up`, `down`, `test`, `lab`, `join`, `backup`, `restore`. Nothing of the product imports this."""
