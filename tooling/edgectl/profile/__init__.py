"""What devices measure: latency reports, the profiles they are read from, and their history."""
