  const start = () => {
    readData();
    bindTables();
    bindCommands();
    bindFits();
    bindCharts();
  };
  start();
  followHash();
  drawAll();
