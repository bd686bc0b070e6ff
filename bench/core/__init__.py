"""What every other package uses: errors, options, the registry, protocols, formatting, training settings."""
