"""What the engine says and is answered: libnetwork's remote driver protocol. Its wire types go no further."""
