"""The yardstick: runs orchd and its peers under the same loads and compares them."""
