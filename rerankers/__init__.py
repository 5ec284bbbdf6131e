"""One query and a few hits -> fewer, better ordered hits. Knows no corpus."""
