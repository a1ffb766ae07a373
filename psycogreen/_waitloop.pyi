from psycogreen._parked import parked as parked
from psycogreen._pywaitloop import wait_callback as wait_callback

implementation: str
