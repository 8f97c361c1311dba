"""Reports over the files that runs leave behind; nothing is trained and no network is loaded."""
