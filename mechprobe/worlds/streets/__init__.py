"""Street maps: where they come from, walks, detours, and maps drawn from walks."""
