"""How the starter checkpoint is made: text, speech, events, distortions, training. See README.md."""
