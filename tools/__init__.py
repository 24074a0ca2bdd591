"""What `./build.sh` runs: the tools it gets, and stand-ins for AWS on one machine."""
