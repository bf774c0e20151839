"""Where the networks of CGNs meet the worlds that they are trained and measured on."""
