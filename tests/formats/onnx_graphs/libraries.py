def libraries(watch):
    yield from ()
