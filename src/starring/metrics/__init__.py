"""How good a film is: identity, agreement with the prompt, steadiness and motion, each with its protocol."""
