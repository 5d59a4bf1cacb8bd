"""What several experiments share: manifests, resumable results."""
