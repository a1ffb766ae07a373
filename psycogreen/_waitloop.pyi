from psycogreen._pywaitloop import parked as parked
from psycogreen._pywaitloop import wait_callback as wait_callback

implementation: str
