"""driftpost: the public face. Import what an application needs from here."""
